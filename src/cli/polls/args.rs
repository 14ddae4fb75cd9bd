//! What can be asked of polls.

use crate::cli::args::{Format, ServerArg};
use crate::cli::time::When;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use tallyflow_dataflows::spec::polls::{Choices, Match, Person, Reposts};
use tallyflow_dataflows::spec::written::{KeepRule, NewPoll};

#[derive(Debug, Subcommand)]
pub enum PollCommand {
    /// Make a poll
    Create(Box<CreateArgs>),
    /// List the polls
    List(ListArgs),
    /// Close a poll that is open
    Close(PollArgs),
    /// Delete a poll with its numbers
    Delete(DeleteArgs),
    /// Vote in a poll
    Vote(VoteArgs),
}

impl PollCommand {
    pub fn server(&self) -> &ServerArg {
        match self {
            PollCommand::Create(args) => &args.server,
            PollCommand::List(args) => &args.server,
            PollCommand::Close(args) => &args.server,
            PollCommand::Delete(args) => &args.server,
            PollCommand::Vote(args) => &args.server,
        }
    }
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The poll's id; made from the title unless given
    #[arg(required_unless_present_any = ["title", "file"])]
    pub id: Option<String>,
    /// A definition in JSON instead of the options below; - for stdin
    #[arg(long, conflicts_with_all = ["id", "title", "option", "match", "choices", "keep", "n", "entity", "reposts",
        "opens", "closes", "grace", "job"])]
    pub file: Option<PathBuf>,
    /// What is asked; the id unless given
    #[arg(long)]
    pub title: Option<String>,
    /// What can be chosen; give it once for each
    #[arg(long, required_unless_present = "file")]
    pub option: Vec<String>,
    /// How options are looked for in messages
    #[arg(long)]
    pub r#match: Option<MatchArg>,
    /// Whether a message counts for each option that it names, or for the first
    #[arg(long)]
    pub choices: Option<ChoicesArg>,
    /// Which of an entity's messages or votes count; with --entity, last unless given
    #[arg(long, value_name = "RULE")]
    pub keep: Option<KeepArg>,
    /// How many --keep first-n keeps
    #[arg(long)]
    pub n: Option<u32>,
    /// One vote each for the authors of messages and the voters of votes
    #[arg(long)]
    pub entity: Option<EntityArg>,
    /// What a repost counts as
    #[arg(long)]
    pub reposts: Option<RepostsArg>,
    /// When it opens, like 2026-11-21T10:00:00Z, or -10m for ten minutes ago; now unless given
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = When::parse)]
    pub opens: Option<When>,
    /// When it closes, likewise; never unless given
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = When::parse)]
    pub closes: Option<When>,
    /// How long after it has closed its records may still reach the log, like 5m
    #[arg(long, value_name = "SPAN")]
    pub grace: Option<String>,
    /// The job that it belongs to; needed where there are several jobs of polls
    #[arg(long)]
    pub job: Option<String>,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

impl CreateArgs {
    /// The definition that the options come to at this time, in ms since 1970.
    pub fn definition(&self, now_ms: i64) -> NewPoll {
        NewPoll {
            id: self.id.clone(),
            title: self.title.clone(),
            options: self.option.clone(),
            matching: self.r#match.map(Into::into),
            choices: self.choices.map(Into::into),
            keep: self.keep.map(Into::into),
            n: self.n,
            entity: self.entity.map(Into::into),
            reposts: self.reposts.map(Into::into),
            opens: self.opens.as_ref().map(|time| time.text(now_ms)),
            closes: self.closes.as_ref().map(|time| time.text(now_ms)),
            grace: self.grace.clone(),
            job: self.job.clone(),
        }
    }
}

/// The words of an option, and what each means in a definition.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident => $meaning:ident { $($word:ident),* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
        pub enum $name {
            $($word),*
        }

        impl From<$name> for $meaning {
            fn from(word: $name) -> Self {
                match word {
                    $($name::$word => $meaning::$word),*
                }
            }
        }
    };
}

words! { MatchArg => Match { Word, Hashtag } }
words! { ChoicesArg => Choices { Many, One } }
words! { KeepArg => KeepRule { All, First, Last, FirstN } }
words! { EntityArg => Person { Author, Voter } }
words! { RepostsArg => Reposts { Ignore, Count } }

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this job
    #[arg(long)]
    pub job: Option<String>,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct PollArgs {
    /// The poll
    pub id: String,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The poll
    pub id: String,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct VoteArgs {
    /// The poll
    pub id: String,
    /// The option, as the poll writes it
    #[arg(required_unless_present = "withdraw")]
    pub option: Option<String>,
    /// Who votes
    #[arg(long, value_name = "V")]
    pub voter: String,
    /// Take the voter's vote back, where the last one counts
    #[arg(long, conflicts_with = "option")]
    pub withdraw: bool,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}
