//! What texts speak to, rule by rule; `naive` holds the rules against a plain reading of them.

mod naive;

use super::*;

/// What `text` speaks to among one poll's options: their text and place.
fn spoken<'o>(options: &[&'o str], how: Match, text: &str, hashtags: &[&str]) -> Vec<(&'o str, u32)> {
    let mut matcher = Matcher::default();
    matcher.insert(7, &options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>(), how);
    let mut found = Vec::new();
    matcher.find(text, hashtags.iter().copied(), &mut Scratch::default(), &mut found);
    found.iter().map(|f| (options[usize::from(f.option)], f.at)).collect()
}

fn words<'o>(options: &[&'o str], text: &str) -> Vec<&'o str> {
    spoken(options, Match::Word, text, &[]).into_iter().map(|(option, _)| option).collect()
}

const LANGUAGES: [&str; 5] = ["C", "C++", "C#", "F#", "Go"];

#[test]
fn signs_make_another_word() {
    assert_eq!(words(&LANGUAGES, "I like C."), ["C"]);
    assert_eq!(words(&LANGUAGES, "(c++), not c+"), ["C++"]);
    assert_eq!(words(&LANGUAGES, "C#/F#: which?"), ["C#", "F#"]);
    assert_eq!(words(&LANGUAGES, "C++C or C+++ or #C or C## or ++C"), [""; 0]);
    assert_eq!(words(&LANGUAGES, "C＋＋ and Ｃ"), ["C++"]);
}

#[test]
fn a_word_is_no_part_of_another() {
    assert_eq!(words(&LANGUAGES, "Gopher, ergo, go2, go_go, c's"), [""; 0]);
    assert_eq!(words(&LANGUAGES, "go-go \"Go!\" …go"), ["Go"]);
    assert_eq!(words(&["can", "can't"], "I can’t"), ["can't"]);
    assert_eq!(words(&["3", "3.5", "000"], "3.5 of 1,000"), ["3.5"]);
}

#[test]
fn case_does_not_matter_in_any_script() {
    assert_eq!(words(&["Straße"], "HAUPT STRASSE"), ["Straße"]);
    assert_eq!(words(&["Οδυσσευς"], "ο ΟΔΥΣΣΕΥΣ!"), ["Οδυσσευς"]);
    assert_eq!(words(&["москва"], "«МОСКВА»"), ["москва"]);
    assert_eq!(words(&["Café"], "cafe\u{301}, CAFÉ"), ["Café"]);
    assert_eq!(words(&["Cafe"], "cafe\u{301}, CAFÉ"), [""; 0]);
    assert_eq!(words(&["istanbul"], "İSTANBUL"), ["istanbul"]);
    assert_eq!(words(&["ısparta"], "Isparta"), [""; 0]);
}

#[test]
fn words_of_scripts_with_spaces_are_whole() {
    assert_eq!(words(&["سلام", "كتاب"], "قال سلام، ثم الكتاب"), ["سلام"]);
    assert_eq!(words(&["שלום"], "\u{200F}שלום\u{200F}!"), ["שלום"]);
    assert_eq!(words(&["خوشحال", "می‌خواهم"], "من میخواهم"), ["می‌خواهم"]);
    assert_eq!(words(&["खुश", "हिन्दी"], "मैं हिन्दी बोलता हूँ"), ["हिन्दी"]);
    assert_eq!(words(&["हिन्द"], "हिन्दी"), [""; 0]);
    assert_eq!(words(&["행복", "슬픔"], "행복, 슬픔이"), ["행복"]);
}

#[test]
fn letters_of_scripts_without_spaces_do_not_adjoin() {
    assert_eq!(words(&["開心", "難過"], "今天很開心"), ["開心"]);
    assert_eq!(words(&["嬉しい", "悲しい"], "今日はとても嬉しいです"), ["嬉しい"]);
    assert_eq!(words(&["มีความสุข"], "วันนี้ฉันมีความสุขมาก"), ["มีความสุข"]);
    assert_eq!(words(&LANGUAGES, "C言語とC++プログラミング"), ["C", "C++"]);
    assert_eq!(words(&LANGUAGES, "我爱C++和F#，不爱Java"), ["C++", "F#"]);
    assert_eq!(words(&["ラーメン"], "熱いラーメンが好き"), ["ラーメン"]);
    assert_eq!(words(&["ラー"], "ラーメン"), [""; 0]);
}

#[test]
fn an_emoji_is_a_word() {
    assert_eq!(words(&["❤️", "👍", "👍🏽"], "love it❤👍🏽"), ["❤️", "👍🏽"]);
    assert_eq!(words(&["🇫🇷", "🇩🇪"], "🇨🇭🇫🇷🇩🇪"), ["🇫🇷", "🇩🇪"]);
    assert_eq!(words(&["1️⃣", "1", "2️⃣"], "1️⃣ and 2"), ["1️⃣"]);
    assert_eq!(words(&["👨‍👩‍👧", "👩"], "👨‍👩‍👧"), ["👨‍👩‍👧"]);
    assert_eq!(words(&["Go", "C++"], "Go🎉 C++🎉"), ["Go", "C++"]);
    assert_eq!(words(&["Acme Corp"], "Acme® Corp"), ["Acme Corp"]);
}

#[test]
fn whatever_parts_tokens_may_stand_between_them() {
    assert_eq!(words(&["New York"], "new\n  «york»"), ["New York"]);
    assert_eq!(words(&["New York"], "Something new. York waits"), ["New York"]);
    assert_eq!(words(&["New-York"], "New York"), ["New-York"]);
    assert_eq!(words(&["New York"], "new in York, newyork"), [""; 0]);
}

#[test]
fn the_longest_at_a_place_wins() {
    let options = ["New York", "New York City", "New", "York"];
    assert_eq!(spoken(&options, Match::Word, "New York City", &[]), [("New York City", 0), ("York", 4)]);
    assert_eq!(
        spoken(&options, Match::Word, "New York City, New York", &[]),
        [("New York City", 0), ("York", 4), ("New York", 15)]
    );
    assert_eq!(words(&["a b c d", "a b", "a"], "a b c"), ["a b"]);
}

#[test]
fn polls_do_not_compete() {
    let mut matcher = Matcher::default();
    matcher.insert(2, &["New York City".to_owned()], Match::Word);
    matcher.insert(1, &["new york".to_owned(), "york".to_owned(), "NEW YORK".to_owned()], Match::Word);
    let mut found = Vec::new();
    matcher.find("in New York City", [], &mut Scratch::default(), &mut found);
    let found: Vec<_> = found.iter().map(|f| (f.poll, f.option, f.at)).collect();
    assert_eq!(found, [(1, 0, 3), (1, 2, 3), (1, 1, 7), (2, 0, 3)]);
}

#[test]
fn an_option_is_its_hashtag_too() {
    let options = ["New York", "happy", "Don't know"];
    assert_eq!(
        spoken(&options, Match::Word, "a #NewYork #HAPPY day", &["newyork", "happy"]),
        [("New York", 2), ("happy", 11)]
    );
    assert_eq!(spoken(&options, Match::Word, "＃happy", &["happy"]), [("happy", 0)]);
    assert_eq!(spoken(&options, Match::Word, "#DontKnow", &["dontknow"]), [("Don't know", 0)]);
    assert_eq!(spoken(&options, Match::Word, "#unhappy, http://x/#happy", &["unhappy"]), []);
}

#[test]
fn hashtags_that_the_text_does_not_show_come_after_it() {
    assert_eq!(spoken(&["a", "b", "c"], Match::Word, "well b", &["x", "c", "a", "c"]), [("b", 5), ("c", 7), ("a", 8)]);
}

#[test]
fn only_hashtags_count_where_hashtags_are_asked_for() {
    let options = ["happy", "#sad"];
    assert_eq!(spoken(&options, Match::Hashtag, "happy sad", &[]), []);
    assert_eq!(spoken(&options, Match::Hashtag, "so #Happy, #SAD", &["happy", "sad"]), [("happy", 3), ("#sad", 11)]);
}

#[test]
fn an_option_written_as_hashtag_is_that_word() {
    assert_eq!(spoken(&["#happy"], Match::Word, "happy", &[]), []);
    assert_eq!(spoken(&["#happy", "happy"], Match::Word, "so #happy", &["happy"]), [("#happy", 3), ("happy", 3)]);
    assert_eq!(spoken(&["#new york", "#new"], Match::Word, "#new york", &["new"]), [("#new york", 0)]);
}

#[test]
fn signs_behind_a_hashtag_are_part_of_it() {
    for how in [Match::Word, Match::Hashtag] {
        assert_eq!(spoken(&LANGUAGES, how, "#C++ rules", &["c"]), [("C++", 0)]);
        assert_eq!(spoken(&LANGUAGES, how, "#C#", &[]), [("C#", 0)]);
        assert_eq!(spoken(&LANGUAGES, how, "#C+", &["c"]), []);
        assert_eq!(spoken(&LANGUAGES, how, "#C++ #c", &["c", "c"]), [("C++", 0), ("C", 5)]);
        assert_eq!(spoken(&LANGUAGES, how, "我爱#C++和#Go", &["c", "go"]), [("C++", 6), ("Go", 13)]);
        assert_eq!(spoken(&LANGUAGES, how, "x#C++", &[]), []);
    }
}

#[test]
fn hashtags_of_any_script_are_found_in_the_text() {
    assert_eq!(spoken(&["開心", "心"], Match::Hashtag, "今天 #開心。", &["開心"]), [("開心", 7)]);
    assert_eq!(spoken(&["開心"], Match::Hashtag, "今天 #開心的一天", &["開心的一天"]), []);
    assert_eq!(spoken(&["हिन्दी"], Match::Hashtag, "ए #हिन्दी", &["हिन्दी"]), [("हिन्दी", 4)]);
    assert_eq!(spoken(&["Straße"], Match::Hashtag, "#STRASSE", &["strasse"]), [("Straße", 0)]);
    assert_eq!(spoken(&["❤️"], Match::Hashtag, "#❤️", &["❤️"]).len(), 1);
}

#[test]
fn an_option_without_a_token_is_not_matchable() {
    for option in ["", " ", "!?", "+", "#", "__", "…", "\u{FE0F}"] {
        assert!(!is_matchable(option, Match::Word) && !is_matchable(option, Match::Hashtag), "{option:?}");
        assert_eq!(words(&[option, "a"], "+ # ! __ a"), ["a"]);
    }
    for option in ["a", "C++", "#x", "👍", "½", "開", "3.5"] {
        assert!(is_matchable(option, Match::Word) && is_matchable(option, Match::Hashtag), "{option:?}");
    }
}

#[test]
fn a_poll_inserted_again_is_replaced() {
    let mut matcher = Matcher::default();
    let (mut scratch, mut found) = (Scratch::default(), Vec::new());
    matcher.insert(1, &["a".to_owned(), "b".to_owned()], Match::Word);
    matcher.insert(1, &["b".to_owned()], Match::Word);
    matcher.find("a b", [], &mut scratch, &mut found);
    assert_eq!(found, [Found { poll: 1, option: 0, at: 2 }]);
    matcher.remove(1);
    matcher.remove(2);
    matcher.find("a b", [], &mut scratch, &mut found);
    assert_eq!(found, []);
}

#[test]
fn long_texts_take_time_in_their_length() {
    // Each of these would take minutes where the work is the square of the text's length.
    let mut matcher = Matcher::default();
    let repeated: Vec<String> = (1..=128).map(|n| "a ".repeat(n)).collect();
    matcher.insert(1, &repeated, Match::Word);
    matcher.insert(2, &["#a".to_owned(), "a+a".to_owned(), "開開".to_owned()], Match::Word);
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    for (unit, options) in [
        ("a ", 128),
        ("a", 0),
        ("#a ", 2),
        ("#a", 0),
        ("a+", 0),
        ("+", 0),
        ("開", 1),
        ("#開", 2),
        ("a'", 0),
        ("é\u{301}", 0),
    ] {
        let text = unit.repeat((1 << 20) / unit.len());
        let hashtags = vec!["a"; if unit.starts_with('#') { 100_000 } else { 0 }];
        matcher.find(&text, hashtags, &mut scratch, &mut found);
        assert_eq!(found.len(), options, "{unit}");
    }
}
