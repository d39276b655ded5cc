"""Everything around a GPT."""
