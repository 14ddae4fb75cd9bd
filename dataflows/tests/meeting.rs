//! How the engines of a cluster find one another, and whom they refuse.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tallyflow_dataflows::engine::cluster::{JoinError, Meeting, Membership};

const DEADLINE: Duration = Duration::from_secs(60);

fn member(process: usize, processes: usize) -> Membership {
    Membership { process, processes, workers: 1, token: [3; 16], digest: "one".into() }
}

fn open() -> Meeting {
    Meeting::open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
}

/// Two processes meet; what comes of it on both sides.
fn meet(first: Membership, second: Membership) -> [Result<(), JoinError>; 2] {
    let meetings = [open(), open()];
    let addresses: Vec<String> = meetings.iter().map(|m| m.address().to_string()).collect();
    let join = |(meeting, us): (Meeting, Membership)| {
        let addresses = addresses.clone();
        std::thread::spawn(move || meeting.join(&us, &addresses, Duration::from_secs(4)).map(drop))
    };
    let joining = meetings.into_iter().zip([first, second]).map(join).collect::<Vec<_>>();
    let joined: Vec<_> = joining.into_iter().map(|joining| joining.join().unwrap()).collect();
    joined.try_into().unwrap()
}

#[test]
fn a_process_of_another_version_or_configuration_is_refused_by_both_sides_with_both_named() {
    assert_eq!(meet(member(0, 2), member(1, 2)), [Ok(()), Ok(())]);
    let other = Membership { digest: "another".into(), ..member(1, 2) };
    let more = Membership { workers: 2, ..member(1, 2) };
    for (second, theirs) in [(other, "another, 2 processes of 1 workers"), (more, "one, 2 processes of 2 workers")] {
        let [first, second] = meet(member(0, 2), second).map(|joined| joined.unwrap_err().to_string());
        let ours = "one, 2 processes of 1 workers";
        assert!(first.starts_with("process 1 ("), "{first}");
        assert!(second.starts_with("process 0 ("), "{second}");
        for said in [first, second] {
            assert!(said.contains(theirs) && said.contains(ours), "{said}");
        }
    }
}

#[test]
fn who_does_not_know_the_token_is_a_stranger() {
    let stranger = Membership { token: [4; 16], ..member(1, 2) };
    let [first, second] = meet(member(0, 2), stranger).map(|joined| joined.unwrap_err().to_string());
    assert!(first.starts_with("process 1 (") && first.contains("did not come within 4000 ms"), "{first}");
    assert!(second.starts_with("process 0 (") && second.contains("did not accept the call"), "{second}");
}

#[test]
fn strangers_keep_nobody_waiting() {
    let meetings = [open(), open()];
    let addresses: Vec<String> = meetings.iter().map(|m| m.address().to_string()).collect();
    let mut strangers: Vec<TcpStream> = Vec::new();
    for n in 0..20 {
        let mut stranger = TcpStream::connect(&addresses[0]).unwrap();
        match n % 4 {
            // One says nothing, one half of a hello, one talks another language, one goes.
            0 => {}
            1 => stranger.write_all(b"tallyflo").unwrap(),
            2 => stranger.write_all(&[b'x'; 4_000]).unwrap(),
            _ => continue,
        }
        strangers.push(stranger);
    }
    let joining = meetings.into_iter().enumerate().map(|(process, meeting)| {
        let addresses = addresses.clone();
        std::thread::spawn(move || meeting.join(&member(process, 2), &addresses, DEADLINE).map(drop))
    });
    let started = Instant::now();
    for joining in joining.collect::<Vec<_>>() {
        assert_eq!(joining.join().unwrap(), Ok(()));
    }
    assert!(started.elapsed() < DEADLINE / 2);
}

#[test]
fn a_process_that_does_not_come_is_named() {
    let (meeting, nobody) = (open(), open());
    let addresses = vec![nobody.address().to_string(), meeting.address().to_string()];
    let gone = addresses[0].clone();
    drop(nobody);
    let error = meeting.join(&member(1, 2), &addresses, Duration::from_millis(300)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("process 0 ({gone}) did not come within 300 ms: ")), "{error}");
}
