//! Tells the crate which compiler makes it: `isolane_build_info` says so.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(rustc).arg("--version").output();
    let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned());
    // `rustc 1.89.0 (29483883e 2025-08-04)`
    let version = told
        .ok()
        .and_then(|told| told.split_whitespace().nth(1).map(str::to_owned));
    println!(
        "cargo:rustc-env=ISOLANE_RUSTC={}",
        version.unwrap_or_else(|| "unknown".to_owned())
    );
}
