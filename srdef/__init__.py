"""srdef: super-resolution and other input transformations as defenses against adversarial attacks."""

__version__ = "0.1.0"
