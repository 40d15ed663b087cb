"""The policy: Rego compiled to WASM, signed, evaluated in the router, explained and replayed. Import its modules."""
