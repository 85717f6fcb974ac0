"""What a command does from end to end: stages joined in the order that docs/spec/vault.md gives."""
