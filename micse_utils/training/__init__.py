"""The paper's objective (`losses`, `ami`), one training (`trainer`, `run`), and experiments."""
