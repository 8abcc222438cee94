"""AMD-V (APM vol. 2, chapter 15): guest mode, its intercepts, and the way in and out."""
