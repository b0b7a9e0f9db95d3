//! `id`: this device's name and fingerprint.

use serde_json::json;

use super::output::{Style, Table};
use super::{Context, Error, members};
use crate::wire::PeerName;
use crate::wire::control::IdentityView;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Set what this device suggests that others call it
    #[arg(long, value_name = "NAME")]
    name: Option<PeerName>,
}

pub(crate) async fn run(cx: Context, args: Args) -> Result<(), Error> {
    let request = match args.name {
        Some(name) => json!({ "name": name }),
        None => json!({}),
    };
    cx.show("identity", members(request), |out, identity: &IdentityView| {
        let mut table = Table::new(&[]);
        table.row([(Style::Bold, "name"), (Style::Plain, &identity.name)]);
        table.row([(Style::Bold, "fingerprint"), (Style::Plain, &identity.fingerprint)]);
        table.row([(Style::Bold, "short"), (Style::Plain, &identity.short)]);
        out.table(&table)
    })
    .await
}
