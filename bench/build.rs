//! Compiles etcd's API into plain clients, and the .netsy format into plain messages.
//! Nothing is mapped to Netsy's own types: what judges the product shares no code with it.

const PROTOS: &str = "../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTOS}");
    for file in ["datafile.proto", "etcd_rpc.proto"] {
        let files = protox::compile([file], [PROTOS])?;
        tonic_prost_build::configure()
            .build_server(false)
            .bytes(".")
            .compile_fds(files)?;
    }
    Ok(())
}
