/* Generated from fit_summary.py, which describes the fields:
python -m zemosaic.photometry._kernels.fit_summary */

#ifndef ZEMOSAIC_FIT_SUMMARY_H
#define ZEMOSAIC_FIT_SUMMARY_H

typedef struct {
    double slope;
    double instrument_norm;
    double information;
    double patch_squares[2];
    double weight;
    double pivot[4];
    double moments[3];
    double rms;
    double shift[2];
    double shift_variance[2];
} FitSummary;

enum { FIT_SUMMARY_LENGTH = 18 }; /* doubles */

#endif
