//! What it costs to match a post against the options of polls, beside a plain loop.
//!
//! ```text
//! cargo run --release -p tallyflow-dataflows --example match_bench
//! ```
//!
//! Posts have about 25 words, of which one in 25 is an option, and one hashtag. They are the same however
//! many options there are: at first all that they speak to is among the first ten options, so that only the
//! cost of options that are *not* there differs; then ("any") it is among all. The plain loop splits the text
//! at what is no letter or digit, and looks each word up in a `HashMap`: no segmentation by Unicode, no
//! options of several words, no signs, no places. In a script without spaces it finds no words.

use std::collections::HashMap;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;
use tallyflow_dataflows::operators::match_options::{Matcher, Scratch};
use tallyflow_dataflows::spec::polls::Match;

const POSTS: usize = 4_000;
const SIZES: [usize; 5] = [1, 10, 1_000, 100_000, 400_000];
const OPTIONS_PER_POLL: usize = 4;

/// Numbers that look random and are the same in every run (splitmix64: Steele, Lea, Flood, "Fast splittable
/// pseudorandom number generators", OOPSLA 2014).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(z ^ (z >> 31)) * end as u128) >> 64) as usize
    }
}

struct Script {
    name: &'static str,
    syllables: Vec<String>,
    space: &'static str,
    /// Syllables of the words of posts and of options.
    lengths: [usize; 2],
    words_per_post: usize,
}

fn scripts() -> Vec<Script> {
    let pairs = |first: &str, second: &str| {
        first.chars().flat_map(|a| second.chars().map(move |b| format!("{a}{b}"))).collect::<Vec<_>>()
    };
    vec![
        Script {
            name: "latin",
            syllables: pairs("bcdfghklmnprstvw", "aeiou"),
            space: " ",
            lengths: [1, 4],
            words_per_post: 25,
        },
        Script {
            name: "cyrillic",
            syllables: pairs("бвгджзклмнпрстфх", "аеиоу"),
            space: " ",
            lengths: [1, 4],
            words_per_post: 25,
        },
        Script {
            name: "chinese",
            syllables: ('一'..='鿿').step_by(9).map(String::from).collect(),
            space: "",
            lengths: [1, 3],
            words_per_post: 40,
        },
    ]
}

impl Script {
    fn word(&self, numbers: &mut Numbers, length: usize) -> String {
        (0..length).map(|_| self.syllables[numbers.below(self.syllables.len())].as_str()).collect()
    }

    /// Every tenth option is of two words.
    fn options(&self) -> Vec<String> {
        let mut numbers = Numbers(1);
        (0..SIZES[SIZES.len() - 1])
            .map(|n| {
                let first = self.word(&mut numbers, self.lengths[1]);
                let second = if n % 10 == 9 { format!(" {}", self.word(&mut numbers, 2)) } else { String::new() };
                format!("{first}{second}")
            })
            .collect()
    }

    fn posts(&self, options: &[String]) -> Vec<(String, String)> {
        let mut numbers = Numbers(2);
        // Words of posts: the frequent ones are short.
        let common: Vec<String> = (0..5_000)
            .map(|n: usize| self.word(&mut numbers, self.lengths[0] + usize::from(n > 200) + usize::from(n > 1_000)))
            .collect();
        (0..POSTS)
            .map(|_| {
                let mut text = String::new();
                for n in 0..self.words_per_post {
                    let option = numbers.below(25) == 0;
                    let common = &common[numbers.below(5_000) * numbers.below(5_000) / 5_000];
                    text.push_str(if option { &options[numbers.below(options.len())] } else { common });
                    text.push_str(match n % 8 {
                        5 => ", ",
                        7 => ". ",
                        _ => self.space,
                    });
                }
                let tag = self.word(&mut numbers, 3);
                // Writing to a string does not fail.
                let _ = write!(text, " #{tag}");
                (text, tag)
            })
            .collect()
    }
}

fn ns_per_post(mut pass: impl FnMut() -> usize) -> (f64, f64) {
    let (mut best, mut found) = (f64::MAX, pass());
    for _ in 0..9 {
        let start = Instant::now();
        found = black_box(pass());
        best = best.min(start.elapsed().as_nanos() as f64 / POSTS as f64);
    }
    (best, found as f64 / POSTS as f64)
}

fn with_matcher(matcher: &Matcher, posts: &[(String, String)]) -> (f64, f64) {
    let (mut scratch, mut found) = (Scratch::default(), Vec::new());
    ns_per_post(|| {
        let mut sum = 0;
        for (text, tag) in posts {
            matcher.find(text, [tag.as_str()], &mut scratch, &mut found);
            sum += found.len();
        }
        sum
    })
}

fn with_plain_loop(options: &[String], posts: &[(String, String)]) -> (f64, f64) {
    let map: HashMap<&str, usize> = options.iter().enumerate().map(|(n, o)| (o.as_str(), n)).collect();
    let mut found: Vec<usize> = Vec::new();
    ns_per_post(|| {
        let mut sum = 0;
        for (text, _) in posts {
            found.clear();
            let text = text.to_lowercase();
            found.extend(text.split(|c: char| !c.is_alphanumeric()).filter_map(|word| map.get(word)));
            sum += found.len();
        }
        sum
    })
}

/// Resident memory, where the system tells it.
fn resident_bytes() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    pages.split(' ').nth(1)?.parse::<usize>().ok().map(|pages| pages * 4096)
}

fn matcher_of(options: &[String]) -> Matcher {
    let mut matcher = Matcher::default();
    for (poll, options) in (0..).zip(options.chunks(OPTIONS_PER_POLL)) {
        matcher.insert(poll, options, Match::Word);
    }
    matcher
}

fn main() {
    for (nth, script) in scripts().iter().enumerate() {
        let options = script.options();
        let posts = script.posts(&options[..10]);
        let any = script.posts(&options);
        let bytes: usize = posts.iter().map(|(text, _)| text.len()).sum();
        println!("{}: {} bytes a post", script.name, bytes / POSTS);
        println!(
            "{:>9} {:>9} {:>7} {:>7} {:>9} {:>7} {:>10}",
            "options", "ns/post", "ratio", "found", "any", "found", "bytes/poll"
        );
        let mut at_ten = None;
        for size in SIZES {
            // What an earlier script has given back would be used again and not seen: only the first tells.
            let before = resident_bytes();
            let matcher = matcher_of(&options[..size]);
            let taken = before.zip(resident_bytes()).map(|(before, after)| after.saturating_sub(before));
            let per_poll =
                taken.filter(|_| nth == 0 && size >= 100_000).map(|bytes| bytes / size.div_ceil(OPTIONS_PER_POLL));
            let (ns, found) = with_matcher(&matcher, &posts);
            let (ns_any, found_any) = with_matcher(&matcher, &any);
            if size == 10 {
                at_ten = Some(ns);
            }
            println!(
                "{size:>9} {ns:>9.0} {:>7} {found:>7.2} {ns_any:>9.0} {found_any:>7.2} {:>10}",
                at_ten.map_or(String::new(), |at_ten: f64| format!("{:.2}", ns / at_ten)),
                per_poll.map_or(String::new(), |bytes| bytes.to_string())
            );
        }
        for size in [10, 100_000] {
            let (ns, found) = with_plain_loop(&options[..size], &posts);
            println!("plain loop, {size} options: {ns:.0} ns/post, {found:.2} found");
        }
    }
}
