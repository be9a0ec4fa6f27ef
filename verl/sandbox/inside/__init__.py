"""What runs behind the sandbox's walls: standard library only, and nothing of the rest of the package.

This folder alone is shown inside, under another path, where it is the top-level package `inside`; hence its relative
imports. In order: `room` builds the walls where bubblewrap does not, `template` waits and forks, `cell` shuts one
attempt in, `program` runs it, `warden` watches it from outside.
"""
