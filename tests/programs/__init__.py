"""Programs that tests run in processes of their own, with PYTHONPATH set to the checkout."""
