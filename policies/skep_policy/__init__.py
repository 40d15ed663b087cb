"""The policy: Rego compiled to WASM, signed, evaluated inside the router, explained and replayed. Import its modules."""
