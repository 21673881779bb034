"""Experiments and their numbers: the gray-box protocol, adaptive attackers, and checks of attacks."""
