"""Model references, their immutable revisions, and the encoders and controls they load into."""
