/* Generated from fit_summary.py, which describes the fields:
python -m zemosaic.photometry._kernels.fit_summary */

#ifndef ZEMOSAIC_FIT_SUMMARY_H
#define ZEMOSAIC_FIT_SUMMARY_H

typedef struct {
    double slope[2];
    double instrument_norm[2];
    double information[2];
    double patch_squares[5];
    double tilt_patch_product;
    double weight;
    double pivot[4];
    double moments[10];
    double rms;
    double shift[2];
    double shift_variance[2];
} FitSummary;

enum { FIT_SUMMARY_LENGTH = 32 }; /* doubles */

#endif
