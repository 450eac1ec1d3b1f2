"""How models of this project are trained; needs torch, and is not part of the installed package."""
