"""From a recording to who said what: activity, overlaps, identity, tracks, transcripts."""
