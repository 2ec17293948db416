//! Progress of long work on stderr: a bar with rate and ETA on a terminal, a line otherwise.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, count};

/// A bar over `total` things, or a counter where the total is not known.
pub fn bar(output: &Output, what: &str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    if !output.terminal {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        match total {
            Some(total) => output.say(format_args!("{what} ({})", count(total))),
            None => output.say(what),
        }
    }
    let template = match total {
        Some(_) => "{msg:12} {bar:32} {human_pos}/{human_len} · {per_sec} · {eta} left",
        None => "{msg:12} {spinner} {human_pos} · {per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}
