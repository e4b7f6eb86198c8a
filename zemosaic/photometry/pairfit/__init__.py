"""The robust line between the previews of a pair."""
