"""Problems on tables: solve one by one method or by many, measure them against the truth, draw and report."""
