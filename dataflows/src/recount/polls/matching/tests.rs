//! The rule by example: a text, the options, and which of them are found.

use super::*;
use crate::operators::match_options::{Matcher, Scratch};
use crate::spec::Keep;
use crate::spec::polls::Reposts;
use proptest::prelude::*;
use std::time::Duration;

fn poll(matching: Match, choices: Choices, options: &[&str]) -> Poll {
    Poll {
        id: "p".into(),
        title: String::new(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        matching,
        choices,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        opens_ns: 0,
        closes_ns: None,
        grace: Duration::ZERO,
    }
}

/// The options found, in the definition's order, a `|` between them.
fn found_with(poll: &Poll, text: &str, hashtags: &[&str]) -> String {
    let hashtags: Vec<String> = hashtags.iter().map(|h| (*h).to_owned()).collect();
    let found = Options::new(poll).in_text(&Reading::new(text, &hashtags));
    found.into_iter().map(|option| poll.options[option].as_str()).collect::<Vec<_>>().join("|")
}

fn words(options: &[&str], text: &str) -> String {
    found_with(&poll(Match::Word, Choices::Many, options), text, &[])
}

/// As words or hashtags, only the first of them.
fn first(options: &[&str], text: &str, hashtags: &[&str]) -> String {
    found_with(&poll(Match::Word, Choices::One, options), text, hashtags)
}

fn tagged(options: &[&str], text: &str, hashtags: &[&str]) -> String {
    found_with(&poll(Match::Word, Choices::Many, options), text, hashtags)
}

fn only_tagged(options: &[&str], text: &str, hashtags: &[&str]) -> String {
    found_with(&poll(Match::Hashtag, Choices::Many, options), text, hashtags)
}

#[test]
fn an_option_is_found_as_a_word_and_not_within_one() {
    assert_eq!(words(&["happy", "sad"], "So happy, not sad!"), "happy|sad");
    assert_eq!(words(&["happy", "sad"], "unhappy saddle"), "");
    assert_eq!(words(&["can"], "can't"), "");
    assert_eq!(words(&["happy"], "happy2 happy_too 2happy"), "");
    assert_eq!(words(&["3"], "3.14"), "");
    assert_eq!(words(&["happy"], "(happy)"), "happy");
    assert_eq!(words(&["happy"], ""), "");
}

#[test]
fn case_and_the_way_an_accent_is_written_make_no_difference() {
    assert_eq!(words(&["Happy"], "HAPPY"), "Happy");
    assert_eq!(words(&["Straße"], "STRASSE"), "Straße");
    assert_eq!(words(&["Σίσυφος"], "ΣΊΣΥΦΟΣ"), "Σίσυφος");
    assert_eq!(words(&["caf\u{e9}"], "CAFE\u{301}"), "caf\u{e9}");
    assert_eq!(words(&["cafe"], "cafe\u{301}"), "");
}

#[test]
fn signs_belong_to_the_word_that_they_adjoin() {
    let all = ["C", "C++", "C#"];
    assert_eq!(words(&all, "I like C."), "C");
    assert_eq!(words(&all, "I like C++."), "C++");
    assert_eq!(words(&all, "I like c#, and c++!"), "C++|C#");
    assert_eq!(words(&all, "C+++ and C+ and C## and +C"), "");
    assert_eq!(words(&all, "C ++ and C + C"), "C");
    assert_eq!(words(&["A", "B", "A+B", "A+"], "a+b"), "A+B");
    // Where nothing says that it is a hashtag, `#` is a sign like another.
    assert_eq!(words(&["happy", "#happy"], "#happy"), "#happy");
}

#[test]
fn an_option_of_several_words_is_found_where_they_stand_in_a_row() {
    assert_eq!(words(&["New York"], "in new  york, in NEW-YORK"), "New York");
    assert_eq!(words(&["New York"], "a new big york; york new"), "");
    assert_eq!(words(&["Notepad++ 8"], "notepad++ (8)"), "Notepad++ 8");
}

#[test]
fn the_longest_at_a_place_is_left() {
    assert_eq!(words(&["New", "New York", "York"], "new york"), "New York|York");
    assert_eq!(words(&["New", "New York"], "new york is new"), "New|New York");
    assert_eq!(tagged(&["New", "#New York"], "#new york", &["new"]), "#New York");
}

#[test]
fn options_that_differ_only_in_case_are_found_together() {
    assert_eq!(words(&["Go", "GO"], "go"), "Go|GO");
    assert_eq!(first(&["GO", "Go"], "go", &[]), "GO");
}

#[test]
fn in_scripts_without_spaces_words_need_nothing_between_them() {
    assert_eq!(words(&["東京", "京都"], "東京都に行く"), "東京|京都");
    assert_eq!(words(&["スシ"], "スシが好き"), "スシ");
    assert_eq!(words(&["แมว"], "ฉันรักแมวมาก"), "แมว");
    assert_eq!(words(&["本"], "日本+"), "");
    assert_eq!(words(&["ミ"], "スシ"), "");
}

#[test]
fn an_option_without_a_word_is_found_nowhere() {
    assert_eq!(words(&["++", "!"], "++ ! a"), "");
}

#[test]
fn an_emoji_is_a_word() {
    assert_eq!(words(&["👍", "👎", "👍🏽"], "nice👍"), "👍");
    assert_eq!(words(&["👍", "👍🏽"], "👍🏽"), "👍🏽");
    assert_eq!(words(&["❤", "🇫🇷"], "❤️🇫🇷"), "❤|🇫🇷");
    assert_eq!(words(&["©"], "©"), "");
}

#[test]
fn what_nobody_sees_and_what_only_keyboards_tell_apart_makes_no_difference() {
    assert_eq!(words(&["co-op", "don't", "C++", "C#"], "c\u{ad}o-op, don’t, C＋＋, C＃"), "co-op|don't|C++|C#");
    assert_eq!(words(&["İstanbul"], "istanbul"), "İstanbul");
    assert_eq!(words(&["istanbul"], "İSTANBUL ISTANBUL"), "istanbul");
    assert_eq!(words(&["ısparta"], "ISPARTA"), "");
}

#[test]
fn signs_between_two_kinds_of_words_belong_to_the_one_that_joins() {
    assert_eq!(words(&["C++", "Java"], "我爱C++和Java"), "C++|Java");
    assert_eq!(words(&["日+本", "日"], "日+本"), "日+本");
    assert_eq!(words(&["C", "#"], "👍#C"), "");
}

#[test]
fn a_hashtag_is_its_option_without_spaces_and_punctuation() {
    assert_eq!(tagged(&["Don't know", "Saint-Germain"], "", &["dontknow", "saintgermain"]), "Don't know|Saint-Germain");
    assert_eq!(tagged(&["New York"], "hi #NewYork", &["newyork"]), "New York");
    assert_eq!(tagged(&["New York"], "hi", &["newyork"]), "New York");
    assert_eq!(tagged(&["New York"], "hi #NewYork", &[]), "");
    assert_eq!(tagged(&["York"], "hi #NewYork", &["newyork"]), "");
}

#[test]
fn by_hashtag_words_are_not_looked_at() {
    assert_eq!(only_tagged(&["happy", "sad"], "happy #sad", &["sad"]), "sad");
    assert_eq!(only_tagged(&["happy", "sad"], "happy sad", &[]), "");
}

#[test]
fn a_hashtag_extends_over_the_signs_behind_it() {
    let all = ["C", "C++", "C#"];
    assert_eq!(only_tagged(&all, "#C", &["c"]), "C");
    assert_eq!(only_tagged(&all, "#C++", &["c"]), "C++");
    assert_eq!(only_tagged(&all, "#C#", &["c"]), "C#");
    assert_eq!(only_tagged(&all, "#C++ #c", &["c"]), "C|C++");
    assert_eq!(only_tagged(&all, "#C+", &["c"]), "");
    // Services take #C# for no hashtag at all.
    assert_eq!(only_tagged(&all, "#C#", &[]), "C#");
    assert_eq!(only_tagged(&all, "#C", &[]), "");
    assert_eq!(tagged(&all, "#C++", &["c"]), "C++");
}

#[test]
fn a_hashtag_is_not_the_beginning_of_a_longer_one() {
    assert_eq!(first(&["go", "golang"], "#golang #go", &["go", "golang"]), "golang");
    assert_eq!(first(&["go", "x"], "#go\u{301} x #go", &["go"]), "x");
}

#[test]
fn of_one_choice_the_first_in_the_text_is_taken() {
    assert_eq!(first(&["sad", "happy"], "happy, then sad", &[]), "happy");
    assert_eq!(first(&["sad", "happy"], "none", &[]), "");
    assert_eq!(first(&["new", "New York", "york"], "york? new york", &[]), "york");
    assert_eq!(first(&["new", "New York"], "new york", &[]), "New York");
}

#[test]
fn of_one_choice_a_hashtag_has_its_place_in_the_text_or_behind_it() {
    assert_eq!(first(&["a", "b"], "#B and a", &["b"]), "b");
    assert_eq!(first(&["a", "b"], "a and #B", &["b"]), "a");
    assert_eq!(first(&["a", "b"], "and a", &["b"]), "a");
    assert_eq!(first(&["a", "b"], "nothing", &["b", "a"]), "b");
    assert_eq!(first(&["a", "b"], "＃B a", &["b"]), "b");
}

/// Letters that join and that do not, signs, marks, emoji: dense, so that they meet.
fn pieces(most: usize) -> impl Strategy<Value = String> {
    let often = prop::sample::select(vec!["a", "b", "C", "new", " ", " ", "+", "#", "開", "心"]);
    let seldom = prop::sample::select(vec![
        "1", "_", ".", "'", "’", "-", "\n", "é", "e\u{301}", "ß", "SS", "ς", "Σ", "İ", "i", "I", "ı", "＃", "＋", "カ",
        "タ", "ひ", "ก", "ด", "👍", "👍🏽", "❤️", "❤", "🇫🇷", "1️⃣", "#️⃣", "\u{301}", "\u{93e}", "\u{3000}", "א", "&", "©",
        "\u{ad}", "\u{200d}", "½",
    ]);
    prop::collection::vec(prop_oneof![3 => often, 2 => seldom], 0..most).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Two ways to do what one rule says.
    #[test]
    fn a_text_is_read_as_the_engine_reads_it(
        options in prop::collection::vec(pieces(5), 1..6),
        by_word: bool,
        one: bool,
        text in pieces(30),
        hashtags in prop::collection::vec(pieces(4), 0..4),
    ) {
        let matching = if by_word { Match::Word } else { Match::Hashtag };
        let choices = if one { Choices::One } else { Choices::Many };
        let poll = poll(matching, choices, &options.iter().map(String::as_str).collect::<Vec<_>>());
        // Few texts of any alphabet speak to something, so an option stands in it.
        let text = format!("{text}{} {text} #{}", options[0], options[0]);
        let hashtags: Vec<String> = hashtags.into_iter().chain([options[0].clone()]).collect();

        let mut matcher = Matcher::default();
        matcher.insert(7, &poll.options, matching);
        let mut found = Vec::new();
        matcher.find(&text, hashtags.iter().map(String::as_str), &mut Scratch::default(), &mut found);
        let first = if one { found.len().min(1) } else { found.len() };
        let engine: BTreeSet<usize> = found[..first].iter().map(|found| usize::from(found.option)).collect();
        let plain = Options::new(&poll).in_text(&Reading::new(&text, &hashtags));
        prop_assert_eq!(plain, engine, "{:?} {:?} {:?}", poll.options, text, hashtags);
    }
}
