"""The orchestrator daemon: accepts jobs durably, decides where each runs, relays what comes back. The only place of policy."""
