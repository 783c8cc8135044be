"""From a recipe to the configuration that is trained: recipe, arguments, overrides, validation."""
