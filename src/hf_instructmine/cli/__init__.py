"""`instructmine <verb>`: each verb a file with its options, its call, and what it prints."""
