#[path = "../../src/bench/arena.rs"]
mod arena;
use arena::*;
use std::sync::Arc;
use std::time::*;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::decode::*;
use tallyflow_dataflows::spec::*;
use tallyflow_dataflows::testing::Bench;

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (kind, n, voters): (&str, usize, u64) = (&a[1], a[2].parse().unwrap(), a[3].parse().unwrap());
    let mut arena = Arena { topic: "t".into(), partitions: (0..4).map(|_| Partition::default()).collect() };
    let mut x = 88172645463325252u64;
    let mut r = || { x ^= x << 13; x ^= x >> 7; x ^= x << 17; x };
    use std::io::Write;
    for i in 0..n {
        let p = &mut arena.partitions[i % 4];
        let v = r() % voters;
        let ms = 1_700_000_000_000u64 + i as u64;
        if kind == "votes" {
            write!(p.bytes, r#"{{"poll":"moods","voter":"v-{v:012}","option":"option-{}","at":{ms}}}"#, r() % 10).unwrap();
        } else {
            write!(p.bytes, r##"{{"id":"{:019}","author":"author-{v}","text":"Lorem ipsum dolor sit amet, consectetur #adipiscing{} elit, sed do eiusmod tempor incididunt #ut{} labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation","at":{ms}}}"##, i as u64 * 7919, r() % 1000, r() % 100).unwrap();
        }
        let e = p.bytes.len();
        p.ends.push(e);
    }
    let job = if kind == "votes" {
        "name='votes'\ndataflow='tally'\n[[input]]\ntopic='t'\nformat='vote'\n[tally]\nsubject='/poll'\ngroup='/option'\nentity='/voter'\nkeep='last'\norder='/at'"
    } else {
        "name='tags'\ndataflow='tally'\n[[input]]\ntopic='t'\nformat='post'\n[tally]\ngroup='/hashtags'"
    };
    let around = Surroundings { formats: &BuiltinFormats, partitions: &|_| Some(4), topics: vec![] };
    let spec = JobFile::parse_toml(job, &around).unwrap();
    let arena = Arc::new(arena);
    // plain loop
    let t = Instant::now();
    {
        let mut needs = Needs::default();
        let p = |s: &str| tallyflow_dataflows::pointer::Pointer::parse(s).unwrap();
        if kind == "votes" { needs.slot(&p("/poll")); needs.slot(&p("/voter")); needs.slot(&p("/option")); needs.slot(&p("/at")); } else { needs.slot(&p("/hashtags")); }
        let mut d = BuiltinFormats.decoder(if kind == "votes" { "vote" } else { "post" }, &needs);
        let mut map: hashbrown::HashMap<String, (i64, u32)> = Default::default();
        let mut names: hashbrown::HashMap<String, u32> = Default::default();
        let mut counts: Vec<i64> = vec![];
        for rec in arena.records() {
            let mut e = Event::default();
            d.decode(&rec, &mut e).unwrap();
            if kind == "votes" {
                let (Some(Value::Text(v)), Some(Value::Text(o)), Some(Value::Number(at))) = (&e.slots[1], &e.slots[2], &e.slots[3]) else { panic!() };
                let at: i64 = at.parse().unwrap();
                let idx = match names.get(&**o) { Some(i) => *i, None => { counts.push(0); names.insert(o.to_string(), counts.len() as u32 - 1); counts.len() as u32 - 1 } };
                match map.get_mut(&**v) {
                    Some(old) => if at >= old.0 { counts[old.1 as usize] -= 1; counts[idx as usize] += 1; *old = (at, idx); },
                    None => { counts[idx as usize] += 1; map.insert(v.to_string(), (at, idx)); }
                }
            } else {
                let Some(Value::Array(tags)) = &e.slots[0] else { panic!() };
                for t in tags { let Value::Text(t) = t else { panic!() };
                    let idx = match names.get(&**t) { Some(i) => *i, None => { counts.push(0); names.insert(t.to_string(), counts.len() as u32 - 1); counts.len() as u32 - 1 } };
                    counts[idx as usize] += 1; }
            }
        }
        std::hint::black_box(&counts);
    }
    let plain = t.elapsed().as_secs_f64();
    println!("plain {:.2} M/s", n as f64 / plain / 1e6);
    for workers in [1, 2] {
        let t = Instant::now();
        let mut b = Bench::start(&spec, Arc::new(ArenaSource(arena.clone())), Arc::new(BuiltinFormats), workers);
        b.run_to(n as u64, Duration::from_secs(100));
        let s = t.elapsed().as_secs_f64();
        println!("{workers} workers {:.2} M/s ratio {:.2} lines {} digest {}", n as f64 / s / 1e6, plain / s, b.results.line_count(), b.results.digest());
    }
}
