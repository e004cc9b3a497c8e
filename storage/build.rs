//! Rebuilds the crate when a migration is added: the schema is compiled into it.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
