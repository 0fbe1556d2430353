"""Checkpoints on disk: packs of bytes, manifests, a catalogue. See FORMAT.md."""
