//! `divvy fit`, and `divvy run --dry-run`.

use super::args::{Fit, Global};
use super::output::{Failure, amounts, level, print_json, printable};
use super::{ask, divvy};
use crate::model::Request;

pub(super) async fn run(global: &Global, args: &Fit) -> Result<u8, Failure> {
    show(global, &ask::request(&args.ask)?, "fit").await
}

/// Says what a request would get.
pub(super) async fn show(
    global: &Global,
    request: &Request,
    verb: &'static str,
) -> Result<u8, Failure> {
    let decision = divvy(global, verb).await?.fit(request).await?;
    if global.json {
        print_json(&decision);
        return Ok(0);
    }
    say!("it fits: {}", amounts(&decision.granted, None));
    for (why, slice) in decision.why.iter().zip(&decision.slices) {
        say!("  {}{}", printable(why), level(slice));
    }
    Ok(0)
}
