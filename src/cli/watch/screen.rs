//! `watch` in a terminal: bars that move.

use super::board::{Applied, Board, Section};
use super::stream::News;
use crate::cli::output::{accounting_lines, percent, plain};
use anyhow::{Context, anyhow};
use crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender};

/// How often the keyboard's thread looks whether it should end.
const INPUT_WAIT: Duration = Duration::from_millis(100);

/// The time between two drawings, at least: a terminal shows no more.
const FRAME_TIME: Duration = Duration::from_millis(33);

/// The most columns that groups take.
const GROUP_WIDTH_MAX: usize = 32;

/// What a key or the terminal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Leave,
    /// Rows down, or up.
    Scroll(isize),
    Top,
    Redraw,
}

/// Draws until the user leaves or the server refuses.
pub async fn run(job: &str, news: &mut Receiver<News>) -> anyhow::Result<()> {
    // Wait for a first answer before taking the screen: a refusal then stands where it is looked for.
    let first = match news.recv().await {
        None => return Ok(()),
        Some(News::Refused(error)) => return Err(error),
        Some(other) => other,
    };
    let mut terminal = ratatui::try_init().context("the terminal can't be drawn on; send the output to a pipe")?;
    let ended = Arc::new(AtomicBool::new(false));
    let (sender, mut wishes) = tokio::sync::mpsc::channel(16);
    let keyboard = {
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || read_keys(&sender, &ended))
    };
    let result = show(&mut terminal, Screen::new(job), first, news, &mut wishes).await;
    ended.store(true, Ordering::Relaxed);
    drop(wishes);
    // It ends within INPUT_WAIT; a key pressed meanwhile must not reach the shell as garbage.
    let _ = keyboard.join();
    ratatui::restore();
    result
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    mut screen: Screen,
    first: News,
    news: &mut Receiver<News>,
    wishes: &mut Receiver<Wish>,
) -> anyhow::Result<()> {
    screen.take(first)?;
    let mut frames = tokio::time::interval(FRAME_TIME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stale = true;
    let mut terminate = terminated()?;
    loop {
        tokio::select! {
            next = news.recv() => match next {
                None => return Ok(()),
                Some(next) => {
                    screen.take(next)?;
                    stale = true;
                }
            },
            wish = wishes.recv() => match wish {
                None | Some(Wish::Leave) => return Ok(()),
                Some(Wish::Scroll(rows)) => {
                    screen.top = screen.top.saturating_add_signed(rows);
                    stale = true;
                }
                Some(Wish::Top) => {
                    screen.top = 0;
                    stale = true;
                }
                Some(Wish::Redraw) => stale = true,
            },
            _ = frames.tick(), if stale => {
                terminal.draw(|frame| screen.draw(frame))?;
                stale = false;
            }
            () = terminate.ended() => return Ok(()),
        }
    }
}

fn read_keys(wishes: &Sender<Wish>, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let wish = match event::poll(INPUT_WAIT) {
            Ok(false) => continue,
            Ok(true) => event::read().ok().and_then(|input| wish(&input)),
            Err(_) => Some(Wish::Leave),
        };
        if let Some(wish) = wish
            && wishes.blocking_send(wish).is_err()
        {
            return;
        }
    }
}

fn wish(input: &Input) -> Option<Wish> {
    match input {
        Input::Resize(..) => Some(Wish::Redraw),
        Input::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Leave),
            KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Leave),
            KeyCode::Down | KeyCode::Char('j') => Some(Wish::Scroll(1)),
            KeyCode::Up | KeyCode::Char('k') => Some(Wish::Scroll(-1)),
            KeyCode::PageDown | KeyCode::Char(' ') => Some(Wish::Scroll(10)),
            KeyCode::PageUp => Some(Wish::Scroll(-10)),
            KeyCode::Home => Some(Wish::Top),
            _ => None,
        },
        _ => None,
    }
}

/// SIGTERM while the screen is ours: the terminal has to be given back.
struct Terminated {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

fn terminated() -> anyhow::Result<Terminated> {
    Ok(Terminated {
        #[cfg(unix)]
        signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
    })
}

impl Terminated {
    async fn ended(&mut self) {
        #[cfg(unix)]
        self.signal.recv().await;
        #[cfg(not(unix))]
        std::future::pending::<()>().await;
    }
}

/// What stands on the screen.
struct Screen {
    board: Board,
    /// Why the numbers stand still, while they do.
    trouble: Option<String>,
    /// The first row shown.
    top: usize,
}

impl Screen {
    fn new(job: &str) -> Self {
        Screen { board: Board::new(job), trouble: None, top: 0 }
    }

    fn take(&mut self, news: News) -> anyhow::Result<()> {
        match news {
            News::Event(event) => {
                let applied = self.board.apply(&event).map_err(|e| anyhow!("an event is not understood ({e})"))?;
                self.trouble = (applied == Applied::Gap).then(|| "catching up".to_owned());
            }
            News::Lost { why, retry } => {
                self.trouble = Some(format!("{why}; trying again every {:.0} s", retry.as_secs_f64().max(1.0)));
            }
            News::Refused(error) => return Err(error),
        }
        Ok(())
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [title, body, foot] =
            Layout::vertical([Constraint::Length(2), Constraint::Min(0), Constraint::Length(3)]).areas(frame.area());
        frame.render_widget(Paragraph::new(self.title()), title);

        let rows = rows(&self.board.sections(), body.width as usize);
        // Never scrolled past the end, also when lines have gone.
        self.top = self.top.min(rows.len().saturating_sub(body.height as usize));
        let below = rows.len().saturating_sub(self.top + body.height as usize);
        let shown: Vec<Line> = rows.into_iter().skip(self.top).take(body.height as usize).collect();
        frame.render_widget(Paragraph::new(shown), body);
        frame.render_widget(Paragraph::new(self.foot(below)), foot);
    }

    fn title(&self) -> Line<'static> {
        let mut spans = vec![Span::from(plain(&self.board.job).into_owned()).bold()];
        match self.board.epoch {
            Some(epoch) => spans.push(Span::from(format!("  epoch {epoch}  {}", plain(&self.board.at)))),
            None => spans.push(Span::from("  nothing to show yet")),
        }
        let state = plain(&self.board.state).into_owned();
        let colour = match state.as_str() {
            "running" => Color::Green,
            "failed" => Color::Red,
            _ => Color::Yellow,
        };
        spans.push(Span::styled(format!("  {state}"), Style::new().fg(colour)));
        if let Some(error) = &self.board.error {
            spans.push(Span::from(format!(": {}", plain(error))).red());
        }
        if let Some(trouble) = &self.trouble {
            spans.push(Span::from(format!("  {}", plain(trouble))).yellow());
        }
        Line::from(spans)
    }

    fn foot(&self, below: usize) -> Vec<Line<'static>> {
        let [records, claims] = accounting_lines(&self.board.accounting);
        let mut keys = "q leaves".to_owned();
        if below > 0 || self.top > 0 {
            keys = format!("{keys}, arrows scroll, {below} more below");
        }
        [records, claims, keys].into_iter().map(|text| Line::from(text).dim()).collect()
    }
}

/// All rows: per subject its name, its bars, an empty row.
fn rows(sections: &[Section], width: usize) -> Vec<Line<'static>> {
    let groups = sections.iter().flat_map(|s| &s.lines).map(|l| Span::from(plain(&l.group).into_owned()).width());
    let group_width = groups.max().unwrap_or(0).min(GROUP_WIDTH_MAX).min(width / 3);
    let value_width = sections.iter().flat_map(|s| &s.lines).map(|l| l.value.to_string().len()).max().unwrap_or(0);
    let mut rows = Vec::new();
    for section in sections {
        let total = section.total.map(|total| format!("  {total}")).unwrap_or_default();
        rows.push(Line::from(vec![Span::from(plain(&section.subject).into_owned()).bold(), Span::from(total)]));
        for line in &section.lines {
            let numbers = format!("  {:>value_width$}  {:>7}", line.value.to_string(), percent(line.share));
            let room = width.saturating_sub(group_width + numbers.len() + 1);
            rows.push(Line::from(vec![
                Span::from(fitted(&plain(&line.group), group_width)),
                Span::from(" "),
                Span::from(bar(line.length, room)).cyan(),
                Span::from(numbers),
            ]));
        }
        rows.push(Line::default());
    }
    rows.pop();
    rows
}

/// A text in exactly so many columns.
fn fitted(text: &str, width: usize) -> String {
    let mut fitted = String::new();
    let mut used = 0;
    let cut = Span::from(text).width() > width;
    for c in text.chars() {
        let wide = Span::from(c.to_string()).width();
        if used + wide > width.saturating_sub(usize::from(cut)) {
            break;
        }
        fitted.push(c);
        used += wide;
    }
    if cut && width > 0 {
        fitted.push('…');
        used += 1;
    }
    fitted.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
    fitted
}

/// A bar in eighths of a column, filled up to `width` columns.
fn bar(length: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (length.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    let mut used = eighths / 8;
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8]);
        used += 1;
    }
    bar.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
    bar
}

#[cfg(test)]
mod tests {
    use super::super::sse::Event;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>()).collect()
    }

    fn screen(lines: usize) -> Screen {
        let tallies: Vec<String> = (0..lines).map(|n| format!(r#"{{"group":"g{n}","value":{}}}"#, lines - n)).collect();
        let total = lines * (lines + 1) / 2;
        let claims = r#""claims":0,"counted":0,"superseded":0,"duplicate":0,"late":0,"voided":0"#;
        let data = format!(
            r#"{{"job":"j","epoch":5,"at":"T","offsets":{{}},"digest":"","accounting":{{"read":7,"rejected":1,"irrelevant":2,"matched":4,{claims}}},
            "subjects":[{{"subject":"lunch","total":{total},{claims},"tallies":[{}]}}]}}"#,
            tallies.join(",")
        );
        let mut screen = Screen::new("j");
        screen.take(News::Event(Event { name: "snapshot".into(), data })).unwrap();
        screen
    }

    #[test]
    fn bars_stand_with_value_share_epoch_and_accounting() {
        let rows = drawn(&mut screen(2), 60, 10);
        assert!(rows[0].starts_with("j  epoch 5  T"), "{rows:#?}");
        assert!(rows[2].starts_with("lunch  3"), "{rows:#?}");
        assert!(rows[3].starts_with("g0 █") && rows[3].trim_end().ends_with("2   66.7 %"), "{rows:#?}");
        assert!(rows[4].starts_with("g1 █") && rows[4].trim_end().ends_with("1   33.3 %"), "{rows:#?}");
        assert_eq!(rows[3].matches('█').count(), 2 * rows[4].matches('█').count() + 1, "{rows:#?}");
        assert!(rows[7].starts_with("read 7 = rejected 1 + irrelevant 2 + matched 4"), "{rows:#?}");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_can_be_scrolled_to() {
        let mut screen = screen(50);
        let rows = drawn(&mut screen, 60, 10);
        assert!(rows[9].contains("46 more below"), "{rows:#?}");
        screen.top = 1_000;
        let rows = drawn(&mut screen, 60, 10);
        assert!(rows[6].starts_with("g49") && rows[9].contains("0 more below"), "{rows:#?}");
    }

    #[test]
    fn a_tiny_terminal_is_drawn_on_without_a_panic() {
        for (width, height) in [(1, 1), (5, 2), (0, 0), (200, 3)] {
            drawn(&mut screen(20), width, height);
        }
    }

    #[test]
    fn a_text_takes_its_columns_exactly() {
        assert_eq!(fitted("abc", 5), "abc  ");
        assert_eq!(fitted("abcdef", 4), "abc…");
        assert_eq!(fitted("東京東京", 5), "東京…");
        assert_eq!(bar(0.5, 4), "██  ");
        assert_eq!(bar(1.0, 2), "██");
        assert_eq!(bar(0.0, 1), " ");
    }
}
