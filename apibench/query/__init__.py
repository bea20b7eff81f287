"""Asking providers: the contract, the engine that spends the money, and the store that keeps what it bought."""
