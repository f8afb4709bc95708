"""Many rules over one trace become numbers: accuracy against compute."""
