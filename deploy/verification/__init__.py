"""What ``deploy/verify-compose`` works with. Nothing here is part of Relay or of its image.

``daemon``, ``base_images`` and ``wheels`` stand in for what a machine cannot reach: a Docker daemon, a registry, a package
index. Every substitution is printed, and none reaches the checkout. ``built_image`` looks into the image, ``stack`` at what
runs.
"""
