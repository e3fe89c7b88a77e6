# The peer "workerd": the Worker that this project began from, in Cloudflare's own runtime.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "worker", worker = .worker),
    (name = "provider", external = (address = "127.0.0.1:@PROVIDER@", http = ())),
  ],
  sockets = [(name = "http", address = "127.0.0.1:@PORT@", http = (), service = "worker")],
);

const worker :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "worker.js")],
  bindings = [(name = "PROVIDER", service = "provider")],
  compatibilityDate = "2026-01-01",
);
