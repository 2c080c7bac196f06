"""Raw images made into prepared splits: examined in a sandbox, judged, split and written."""
