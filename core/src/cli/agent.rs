//! `divvy agent`.

use super::args::{Agent, Global};
use super::need_root;
use super::output::Failure;
use crate::{config, server};

pub(super) fn run(global: &Global, _: &Agent) -> Result<(), Failure> {
    need_root("agent")?;
    let builder = global.builder()?;
    let (settings, config) = builder.settings()?;
    let socket = builder
        .socket_path(&settings.state, &config)
        .unwrap_or_else(|| config::usual_socket(&settings.state));
    Ok(server::main(settings, &config, socket)?)
}
