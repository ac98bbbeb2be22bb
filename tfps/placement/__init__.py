"""Where every row of every variable lives, decided before anything is started. No TensorFlow here."""
