//! Appends records to the store in a folder until it is killed, and says after each that it is there:
//! `store-writer FOLDER NAME`. The records' keys are `NAME 0`, `NAME 1`, ..

use std::io::Write;
use std::path::Path;
use tilewright_autotune::fingerprint::Device;
use tilewright_autotune::record::{Record, Trial};
use tilewright_autotune::store::Store;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, name] = &args[..] else { anyhow::bail!("usage: store-writer FOLDER NAME") };
    let device = Device::detect();
    let mut store = Store::open(Path::new(folder), &device.id(), "c0ffee")?;
    let mut out = std::io::stdout().lock();
    for i in 0.. {
        // Lines from half a kilobyte to beyond a page: a long write has more places to be cut at.
        let trial = Trial { backend: "cranelift".into(), ns: 1000.0 / 3.0, mad_ns: 0.1, ..Trial::default() };
        let history = vec![trial; i * 13 % 65];
        let record = Record { op: format!("{name} {i}"), device: device.id(), history, ..Record::example() };
        store.append(&record)?;
        // A line at once, so that no killed writer holds back what it acknowledged.
        out.write_all(format!("{i}\n").as_bytes())?;
    }
    Ok(())
}
