"""System nodes: SY.config.routes owns the configuration, SY.threads the bindings, SY.tap the record of turns."""
