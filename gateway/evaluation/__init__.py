"""How good are the inspectors on texts whose answer is known? Sets, scores, floors and a stored baseline; no detector lives here."""
