"""Repositories at the hub of Hugging Face: `snapshots` fetches what is read of them."""
