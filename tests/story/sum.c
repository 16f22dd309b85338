/* Reads a dataset of an index by plain HDF5, as a user's solver would: prints rows, width and the sum. */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    hid_t file = H5Fopen(argv[1], H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, argv[2], H5P_DEFAULT);
    hid_t space = H5Dget_space(set);
    hsize_t shape[2];
    if (file < 0 || set < 0 || H5Sget_simple_extent_dims(space, shape, NULL) != 2) return 1;
    double *values = malloc(shape[0] * shape[1] * sizeof(double));
    if (H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0) return 1;
    double total = 0;
    for (hsize_t i = 0; i < shape[0] * shape[1]; i++) total += values[i];
    printf("%llu %llu %.17g\n", (unsigned long long)shape[0], (unsigned long long)shape[1], total);
    free(values);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(file);
    return 0;
}
