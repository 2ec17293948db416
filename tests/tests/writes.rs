mod it {
    mod writes;
}
