//! Compiles the .proto files in pure Rust, so that no protoc is needed.

const PROTOS: &str = "../../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTOS}");
    let files = protox::compile(["datafile.proto", "peer.proto"], [PROTOS])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(files)?;

    // RPCs the etcd door does not override answer Unimplemented; KeyValues are encoded once, by the view.
    let files = protox::compile(["etcd_rpc.proto"], [PROTOS])?;
    tonic_prost_build::configure()
        .bytes(".")
        .generate_default_stubs(true)
        .extern_path(".mvccpb.KeyValue", "crate::view::KeyValue")
        .codec_path("crate::api::codec::ExactCodec")
        .compile_fds(files)?;
    Ok(())
}
