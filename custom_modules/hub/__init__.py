"""From trained weights to folders that SpeechBrain alone can load."""
