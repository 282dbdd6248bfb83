"""What lies behind the scores: representations, correlation with translation, telling sentences, transfer."""
