"""What the program tells about itself: settings in force, versions, completion scripts. No role, no daemon."""
