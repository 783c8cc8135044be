"""Checks of the login node: pure functions of the answers in `launcher.doctor.site`."""
