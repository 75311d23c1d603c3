"""The embedded model `haiku`: its grammar, training, export and evaluation. No part of the installed program."""
