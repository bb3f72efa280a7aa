"""From a recording of a conversation to who said what."""
