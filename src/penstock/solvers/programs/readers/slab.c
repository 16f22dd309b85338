/* Reads a Penstock dataset under MPI without Python: each rank the rows that are its own.

   mpicc -O2 -o slab slab.c $(pkg-config --cflags --libs hdf5)
   mpiexec -n 4 ./slab DATASET/index.h5 embedding [TASKS [SHA256]]

   Prints the rows, the numbers in each, and the sum of all. Take `read_rows` into your own solver.

   HDF5's ordinary driver is enough and must be used: the parallel one (mpio) does not read virtual datasets.
   Where a part file is missing HDF5 gives fill values without a word, which the column `row` betrays by being
   negative. TASKS refuses an mpiexec of another MPI than this program's, under which each process is alone.
   SHA256 (`manifest_sha256` of the index) refuses a dataset that was written anew. */
#include <hdf5.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DIMENSIONS = 8 };

static void refuse(const char *what, const char *where, const char *remedy) {
    fprintf(stderr, "slab: %s: %s; %s\n", where, what, remedy);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

/* The rows start to stop of a column, as `type`; *width gets the numbers in a row, *rows those of the whole column. */
static void *read_rows(hid_t file, const char *column, hid_t type, size_t size, int rank, int ranks,
                       hsize_t *rows, hsize_t *own, hsize_t *width) {
    hsize_t shape[MOST_DIMENSIONS], first[MOST_DIMENSIONS] = {0};
    hid_t set = H5Dopen2(file, column, H5P_DEFAULT);
    if (set < 0) refuse("there is no such column", column, "h5ls lists those that are there");
    hid_t space = H5Dget_space(set);
    int dimensions = H5Sget_simple_extent_ndims(space);
    if (dimensions < 1 || dimensions > MOST_DIMENSIONS) refuse("not 1 to 8 dimensions", column, "take another column");
    H5Sget_simple_extent_dims(space, shape, NULL);
    *rows = shape[0];
    first[0] = *rows * rank / ranks;
    shape[0] = *own = *rows * (rank + 1) / ranks - first[0];
    *width = 1;
    for (int i = 1; i < dimensions; i++) *width *= shape[i];

    void *values = malloc(*own * *width * size + 1);
    if (!values) refuse("the rows do not fit the memory", column, "use more ranks");
    hid_t memory = H5Screate_simple(dimensions, shape, NULL);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, first, NULL, shape, NULL);
    if (*own && H5Dread(set, type, memory, space, H5P_DEFAULT, values) < 0)
        refuse("cannot be read", column, "run penstock verify on the dataset");
    H5Sclose(memory);
    H5Sclose(space);
    H5Dclose(set);
    return values;
}

/* Whether the text attribute `manifest_sha256` of the file is `wanted`. */
static int is_dataset(hid_t file, const char *wanted) {
    hid_t attribute = H5Aopen(file, "manifest_sha256", H5P_DEFAULT);
    if (attribute < 0) return 0;
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    char *found = NULL;
    int same = H5Aread(attribute, type, &found) >= 0 && found && strcmp(found, wanted) == 0;
    if (found) H5free_memory(found);
    H5Tclose(type);
    H5Aclose(attribute);
    return same;
}

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (argc < 3) refuse("arguments are missing", argv[0], "give INDEX COLUMN [TASKS [SHA256]]");
    if (argc > 3 && ranks != atoi(argv[3]))
        refuse("there are other ranks than TASKS", argv[0], "start it by the mpiexec of the MPI that built it");

    hid_t file = H5Fopen(argv[1], H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) refuse("is no HDF5 file", argv[1], "give the index.h5 of a dataset");
    if (argc > 4 && !is_dataset(file, argv[4]))
        refuse("is the index of another dataset", argv[1], "it was written anew since; start again from there");

    hsize_t rows, all, own, width;
    long long *row = read_rows(file, "row", H5T_NATIVE_LLONG, sizeof *row, rank, ranks, &all, &own, &width);
    for (hsize_t i = 0; i < own; i++)
        if (row[i] < 0) refuse("a part of the dataset is missing", argv[1], "restore it; penstock verify names it");
    double *values = read_rows(file, argv[2], H5T_NATIVE_DOUBLE, sizeof *values, rank, ranks, &rows, &own, &width);
    if (rows != all) refuse("is no column of rows", argv[2], "h5ls lists those that are there");

    double sum = 0, total;
    for (hsize_t i = 0; i < own * width; i++) sum += values[i];
    MPI_Reduce(&sum, &total, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%llu %llu %.17g\n", (unsigned long long)rows, (unsigned long long)width, total);
    free(row);
    free(values);
    H5Fclose(file);
    MPI_Finalize();
    return 0;
}
