"""Checks of the login node, pure over what was asked (`launcher.doctor.site`)."""
